<#
.SYNOPSIS
Installs the Windows build of the original Azure CNI plugin.

.DESCRIPTION
azure-vnet of this project is for Linux. On Windows nodes, the original's binaries do the work: this puts them into c:\cni\bin and a
configuration into c:\cni\netconf. There, Windows itself source-NATs what leaves the subnet; ranges cannot be configured.

.PARAMETER AzureCniPluginVersion
For example v1.4.20.

.PARAMETER CniPluginVersion
For example v1.0.1: also installs the reference plugins of that version.

.PARAMETER Source
Folder, or address of a folder, that has the archives of the original plugin.

.EXAMPLE
.\install-cni-plugin.ps1 v1.4.20 v1.0.1
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory, Position = 0)][ValidatePattern('^v\d+\.\d+\.\d+')][string]$AzureCniPluginVersion,
    [Parameter(Position = 1)][ValidatePattern('^v\d+\.\d+\.\d+')][string]$CniPluginVersion,
    [string]$Source = "https://github.com/Azure/azure-container-networking/releases/download/$AzureCniPluginVersion",
    [string]$CniPluginSource = "https://github.com/containernetworking/plugins/releases/download/$CniPluginVersion",
    [string]$BinDir = 'c:\cni\bin',
    [string]$NetConfDir = 'c:\cni\netconf'
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

function Get-Archive([string]$From, [string]$Name, [string]$To) {
    $path = Join-Path $To $Name
    if ($From -match '^https?://') {
        Invoke-WebRequest -UseBasicParsing -TimeoutSec 300 -Uri "$From/$Name" -OutFile $path
    } elseif (Test-Path (Join-Path $From $Name)) {
        Copy-Item (Join-Path $From $Name) $path
    } else {
        throw "$From has no ${Name}: set the folder, and check the version"
    }
    $path
}

$work = Join-Path ([IO.Path]::GetTempPath()) ([IO.Path]::GetRandomFileName())
New-Item -ItemType Directory -Force -Path $work, $BinDir, $NetConfDir | Out-Null
try {
    $archive = Get-Archive $Source "azure-vnet-cni-windows-amd64-$AzureCniPluginVersion.zip" $work
    $unpacked = Join-Path $work 'azure'
    Expand-Archive -Path $archive -DestinationPath $unpacked
    Copy-Item (Join-Path $unpacked '*.exe') $BinDir -Force
    # The archive's own configuration fits its version; one that is there already may have been edited.
    Get-ChildItem $unpacked -Filter '*.conflist' | ForEach-Object {
        $target = Join-Path $NetConfDir $_.Name
        if (Test-Path $target) { Write-Output "kept $target" } else { Copy-Item $_.FullName $target }
    }
    if ($CniPluginVersion) {
        $archive = Get-Archive $CniPluginSource "cni-plugins-windows-amd64-$CniPluginVersion.tgz" $work
        tar.exe -xzf $archive -C $BinDir
        if ($LASTEXITCODE -ne 0) { throw "cannot unpack $archive" }
    }
    Write-Output "Installed $AzureCniPluginVersion into $BinDir; the configuration is in $NetConfDir."
} finally {
    Remove-Item -Recurse -Force $work
}
